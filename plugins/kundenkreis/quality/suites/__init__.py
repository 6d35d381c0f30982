"""What is expected: one module per gate, plain Great Expectations classes."""

"""The five vendor fakes: each turns a `Request` into a `Reply` and keeps its own state."""

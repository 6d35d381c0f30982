"""`make chaos`: deliveries killed at random, and what has to be true after each."""

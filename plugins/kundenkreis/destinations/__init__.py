"""The email tools that audiences are delivered to: one module per tool behind `base.Destination`."""

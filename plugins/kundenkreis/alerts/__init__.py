"""Who is told what goes wrong: incidents, one message each, over channels of `alerts.yml`."""

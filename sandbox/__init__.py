"""A shop, a CRM and two email tools to try Kundenkreis on: seeded, stateful, on loopback only."""

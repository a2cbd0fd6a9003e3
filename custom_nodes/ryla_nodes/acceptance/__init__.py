"""The acceptance run: what was promised of the workflows, measured on any engine or gateway, beside its target."""

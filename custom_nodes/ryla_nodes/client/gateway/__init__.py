"""The client of a gateway: jobs posted once, followed by its events or by asking, whatever happens in between."""

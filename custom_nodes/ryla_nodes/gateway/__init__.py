"""The HTTP gateway: an endpoint for each workflow, durable jobs, truth about what is ready. See docs/api.md."""

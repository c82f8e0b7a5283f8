"""HTTP for whoever serves it: aiohttp on the core's connections, problems, limits, OpenAPI; knows no gateway."""

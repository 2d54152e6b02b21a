"""The OpenAI-compatible server: requests (api), engines (pool), routes (app), and a page to chat (page.html)."""

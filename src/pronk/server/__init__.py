"""HTTP: OpenAI's API, TGI's, the chat page and metrics, over one engine service for each model."""

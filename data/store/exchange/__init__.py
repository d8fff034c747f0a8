"""Feature sets to and from other tools: embeddings made elsewhere are imported, feature files exported."""

"""Picture files: decoding, colour, metadata, masks, compositing, previews, encoding."""

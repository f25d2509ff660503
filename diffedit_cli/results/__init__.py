"""What a run leaves behind: results, results.jsonl, the page and its thumbnails."""

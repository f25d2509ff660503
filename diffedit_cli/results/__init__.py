"""What a run leaves behind: its results, results.jsonl, the report page and the thumbnails."""

"""PIE-Bench and data sets like it: edits of photographs, measured as PIE-Bench's own evaluation does.

`datasets` reads the edits, `methods` makes them, `figures` measures them, `results` keeps both so that a killed run
resumes, `report` writes tables and a contact sheet, `regions` counts the kinds of edits. See docs/benchmark.md.
"""

DINO, CLIP = "facebook/dino-vitb8", "openai/clip-vit-large-patch14"
SQUEEZENET = "https://download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth"

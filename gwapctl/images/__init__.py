"""Images in: decoding (EXIF applied once), which files are images, and what a file of each kind is called."""

"""What every package may use: errors, files, records, images, markdown, processes, progress."""

"""What the course's own code is worth, measured: `make bench`, and the page performance.md."""

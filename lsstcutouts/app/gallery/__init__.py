"""Pictures of cutouts with captions: pages for print, image files, and a page for the browser."""

"""What people watch in a browser: the dashboard, the overlay, and the server that feeds them."""

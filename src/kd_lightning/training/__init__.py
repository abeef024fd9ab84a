"""One net, trained one way with one seed."""

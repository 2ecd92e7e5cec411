"""First-party algorithms, registered exactly as a third party's would be."""

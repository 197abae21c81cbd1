"""What several sources of one venue share: its wire, each venue one pure file."""

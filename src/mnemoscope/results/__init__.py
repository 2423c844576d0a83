"""Results as plain data: tables with their columns, files, and the door to `report`."""

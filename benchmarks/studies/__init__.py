"""The papers' tables, a file each: which runs they are made of (`jobs`), and how they read (`tables`)."""

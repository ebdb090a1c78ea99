"""What an attacker can tell from the published adapters: an empirical lower bound on epsilon."""

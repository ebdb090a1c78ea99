"""Who is who: the X.509 profile, the CA, wallets of keys and certificates, enrolment, renewal and revocation."""

"""The arithmetic of the mixers: fast chunked forms, single steps, and the plain definitions they must equal."""

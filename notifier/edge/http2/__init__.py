"""Push servers over HTTP/2: TLS and ALPN around core/http2, and a pool of connections for each credential."""

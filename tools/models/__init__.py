"""`make models`: fetch the published weights, check them, and make a model set of them.

catalogue.toml   what there is: files, sizes, checksums, licenses (edit it, or pass your own)
catalogue.py     reads it
addresses.py     what of a URL may be shown and stored
client.py        HTTP: certificates, proxies, redirects, the hub's token
waiting.py       how long a server asks to wait
download.py      one file over HTTP: resumes, retries, never mistakes a part for the whole
convert.py       `.pth` to safetensors, without running arbitrary code from a pickle
assemble.py      the set's folder: what is there, what is missing, and the manifest
__main__.py      the command
"""

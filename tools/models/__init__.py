"""`make models`: fetch the published weights, check them, and make a model set of them.

catalogue.toml   what there is: files, sizes, checksums, licences (edit it, or give your own)
catalogue.py     reads it
download.py      one file over HTTP: resumes, retries, never takes a part for the whole
convert.py       `.pth` to safetensors, without running what a pickle might hold
assemble.py      the folder: what is there, what is missing, the manifest at the end
__main__.py      the command
"""

"""Detect the faces of a photo, compare fidelities, restore it with a plan.

usage: restore.py PHOTO RESTORED.png [HOST:PORT]
"""

import sys
from pathlib import Path

import grpc

from atelier.common.v1 import image_pb2
from atelier.restorer.v1 import restorer_service_pb2 as restorer
from atelier.restorer.v1 import restorer_service_pb2_grpc

source, target, *rest = sys.argv[1:]
address = rest[0] if rest else "127.0.0.1:50052"

# gRPC's own limit for received messages is 4 MiB; an image is one message.
channel = grpc.insecure_channel(address, options=[("grpc.max_receive_message_length", -1)])
stub = restorer_service_pb2_grpc.RestorerServiceStub(channel)
photo = image_pb2.Image(data=Path(source).read_bytes())

detected = stub.DetectFaces(restorer.DetectFacesRequest(image=photo, min_confidence=0.5), timeout=120)
plan = [restorer.FaceEdit(face=face, skip=face.sharpness > 3000) for face in detected.faces]

request = restorer.RestoreFacesRequest(image=photo, faces=plan)
comparison = restorer.CompareFidelitiesRequest(restore=request, fidelities=[0.0, 0.6, 1.0])
for response in stub.CompareFidelities(comparison, timeout=120):
    print(f"w = {response.fidelity:g}: {sum(face.restored for face in response.result.faces)} faces restored")

for edit in plan:
    edit.fidelity = 0.7
request = restorer.RestoreFacesRequest(image=photo, faces=plan, return_mask=True, return_crops=True)
restored = stub.RestoreFaces(request, timeout=120)
Path(target).write_bytes(restored.image.data)
for warning in restored.warnings:
    print(f"warning: {warning.message}")

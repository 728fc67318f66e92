"""Client of parchgradd: send frames, read saliency maps.

    for s in parchgrad_client.subscribe("tcp://127.0.0.1:5556"):
        print(s.stream, s.explained.name, s.map.shape)
"""
from .recording import Recorder
from .stream import Publisher, RequestError, Subscriber, request, subscribe
from .wire import Explained, Label, Saliency, WireError, decode_saliency, encode_frame

__all__ = ["Explained", "Label", "Publisher", "Recorder", "RequestError", "Saliency",
           "Subscriber", "WireError", "decode_saliency", "encode_frame", "request", "subscribe"]
__version__ = "0.1.0"

from lmcourse import TurbomindEngineConfig, pipeline
from lmcourse.vl import load_image

backend_config = TurbomindEngineConfig(session_len=8192)
pipe = pipeline("/share/new_models/liuhaotian/llava-v1.6-vicuna-7b", backend_config=backend_config)

image = load_image("https://raw.githubusercontent.com/open-mmlab/mmdeploy/main/tests/data/tiger.jpeg")
response = pipe(("describe this image", image))
print(response)

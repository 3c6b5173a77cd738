import gradio as gr

from lmcourse import TurbomindEngineConfig, pipeline

backend_config = TurbomindEngineConfig(session_len=8192)
pipe = pipeline("/share/new_models/liuhaotian/llava-v1.6-vicuna-7b", backend_config=backend_config)


def turn(question, answer):
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def model(image, text):
    if image is None:
        return turn(text, "请上传一张图片。")
    response = pipe((text, image)).text
    return turn(text, response)


demo = gr.Interface(fn=model, inputs=[gr.Image(type="pil"), gr.Textbox()], outputs=gr.Chatbot())
demo.launch()

"""The server: OpenAI's interface over HTTP for a running pipeline. Needs the extra: pip install "lmcourse[serve]".

settings      ServerSettings: keys, origins, queue, limits     schema/    what goes over the wire
app           make_app: the routes, put together               guards     key, content type, size of the body
service       Service: what the routes share; admission        errors     every refusal in one form
answers       the n answers of a request, as they come         streaming  server-sent events, and who has left
chat          /v1/chat/completions                             completions  /v1/completions
tools         tools, tool calls and what forces them           grammar    answers of a given form
native        /v1/encode, /v1/chat/interactive                 models     /v1/models, /health
docs          the page at /, from our own OpenAPI schema       docs_style how it looks
metrics       /metrics: load, TTFT, TPOT                       token_report  logprobs in OpenAI's forms
running       a server in this process

background    servers that notebook cells start and stop         web        the chat page's answers
proxy         reaching a server through JupyterLab               chat_page  its layout, in gradio
listening     where a bound port is found                         picture_page  a form for a picture and a question
pictures      what strangers send: opened under the network's rules
"""

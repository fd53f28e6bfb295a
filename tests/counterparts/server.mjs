// A server made with the official TypeScript SDK: `echo`, `steps` that tells of progress, `ask` that asks its user.
//
//     node server.mjs v1|v2 stdio|http      over HTTP it says its URL on stdout

import { randomUUID } from 'node:crypto';
import { createServer } from 'node:http';
import { argv } from 'node:process';
import { Readable } from 'node:stream';

const [generation, way] = argv.slice(2);
const info = { name: 'typescript', version: '1' };
const text = said => ({ content: [{ type: 'text', text: said }] });
const schema = (name, type) => ({ type: 'object', properties: { [name]: { type } }, required: [name] });
const arguments_ = { echo: schema('text', 'string'), steps: schema('number', 'integer'), ask: schema('question', 'string') };
const form = question => ({ message: question, requestedSchema: schema('name', 'string') });

async function steps(number, token, notify) {
    for (let step = 0; step < number; step++) {
        await notify({ method: 'notifications/progress', params: { progressToken: token, progress: step } });
    }
    return text('done');
}

async function v1() {
    const { Server } = await import('@modelcontextprotocol/sdk/server/index.js');
    const types = await import('@modelcontextprotocol/sdk/types.js');
    const server = new Server(info, { capabilities: { tools: {} } });
    const tools = Object.entries(arguments_).map(([name, inputSchema]) => ({ name, inputSchema }));
    server.setRequestHandler(types.ListToolsRequestSchema, async () => ({ tools }));
    server.setRequestHandler(types.CallToolRequestSchema, async ({ params }, extra) => {
        if (params.name === 'echo') return text(params.arguments.text);
        if (params.name === 'steps') {
            return steps(params.arguments.number, params._meta?.progressToken, extra.sendNotification);
        }
        const request = { method: 'elicitation/create', params: form(params.arguments.question) };
        const answer = await extra.sendRequest(request, types.ElicitResultSchema);
        return text(answer.content.name);
    });
    return server;
}

async function v2() {
    const { McpServer, fromJsonSchema, inputRequired, acceptedContent } = await import('@modelcontextprotocol/server');
    const server = new McpServer(info);
    const add = (name, run) => server.registerTool(name, { inputSchema: fromJsonSchema(arguments_[name]) }, run);
    add('echo', async given => text(given.text));
    add('steps', async ({ number }, { mcpReq }) => steps(number, mcpReq._meta?.progressToken, mcpReq.notify));
    add('ask', async ({ question }, { mcpReq }) => {
        const answer = acceptedContent(mcpReq.inputResponses, 'name');
        if (answer) return text(answer.name);
        return inputRequired({ inputRequests: { name: inputRequired.elicit(form(question)) } });
    });
    return server;
}

async function sessions() {
    const { StreamableHTTPServerTransport } = await import('@modelcontextprotocol/sdk/server/streamableHttp.js');
    const open = new Map();
    return async (request, response) => {
        let transport = open.get(request.headers['mcp-session-id']);
        if (!transport) {
            transport = new StreamableHTTPServerTransport({
                sessionIdGenerator: randomUUID,
                onsessioninitialized: id => open.set(id, transport),
            });
            await (await v1()).connect(transport);
        }
        await transport.handleRequest(request, response);
    };
}

async function stateless() {
    const { createMcpHandler } = await import('@modelcontextprotocol/server');
    const handler = createMcpHandler(v2);
    return async (request, response) => {
        const body = request.method === 'POST' ? Readable.toWeb(request) : undefined;
        const { method, headers } = request;
        const url = new URL(request.url, `http://${headers.host}`);
        const answer = await handler.fetch(new Request(url, { method, headers, body, duplex: 'half' }));
        response.writeHead(answer.status, Object.fromEntries(answer.headers));
        if (answer.body) Readable.fromWeb(answer.body).pipe(response);
        else response.end();
    };
}

if (way === 'http') {
    const server = createServer(await (generation === 'v1' ? sessions() : stateless()));
    server.listen(0, '127.0.0.1', () => console.log(`http://127.0.0.1:${server.address().port}/mcp`));
} else if (generation === 'v1') {
    const { StdioServerTransport } = await import('@modelcontextprotocol/sdk/server/stdio.js');
    await (await v1()).connect(new StdioServerTransport());
} else {
    const { serveStdio } = await import('@modelcontextprotocol/server/stdio');
    serveStdio(v2);
}

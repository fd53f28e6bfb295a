// The official TypeScript SDK's client: it lists, calls, hears progress, answers questions, and says as JSON what came.
//
//     node client.mjs v1|v2 legacy|modern '{"url": ...} | {"sse": ...} | {"command": ..., "args": [...]}'

import { stdout, argv } from 'node:process';

const [generation, era, where] = argv.slice(2);
const target = JSON.parse(where);
const info = { name: 'typescript', version: '1' };
const answer = async request => ({ action: 'accept', content: { name: `to ${request.params.message}` } });

async function v1() {
    const { Client } = await import('@modelcontextprotocol/sdk/client/index.js');
    const { ElicitRequestSchema } = await import('@modelcontextprotocol/sdk/types.js');
    const http = await import('@modelcontextprotocol/sdk/client/streamableHttp.js');
    const sse = await import('@modelcontextprotocol/sdk/client/sse.js');
    const stdio = await import('@modelcontextprotocol/sdk/client/stdio.js');
    const client = new Client(info, { capabilities: { elicitation: {} } });
    client.setRequestHandler(ElicitRequestSchema, answer);
    return {
        client,
        transports: { ...http, ...sse, ...stdio },
        call: (params, options) => client.callTool(params, undefined, options),
    };
}

async function v2() {
    const sdk = await import('@modelcontextprotocol/client');
    const stdio = await import('@modelcontextprotocol/client/stdio');
    const mode = era === 'modern' ? { pin: '2026-07-28' } : 'legacy';
    const client = new sdk.Client(info, { capabilities: { elicitation: { form: {} } }, versionNegotiation: { mode } });
    client.setRequestHandler('elicitation/create', answer);
    return { client, transports: { ...sdk, ...stdio }, call: (params, options) => client.callTool(params, options) };
}

function transport({ StreamableHTTPClientTransport, SSEClientTransport, StdioClientTransport }) {
    if (target.url) return new StreamableHTTPClientTransport(new URL(target.url));
    return target.sse ? new SSEClientTransport(new URL(target.sse)) : new StdioClientTransport(target);
}

const { client, transports, call } = await (generation === 'v1' ? v1() : v2());
await client.connect(transport(transports));
const said = async (name, args, options) => (await call({ name, arguments: args }, options)).content[0].text;
const { tools } = await client.listTools();
const echoed = await said('echo', { text: 'näme \u2028 🎈' });
const progress = [];
const stepped = await said('steps', { number: 3 }, { onprogress: step => progress.push(step.progress) });
const asked = await said('ask', { questions: ['one', 'two'] });
await client.close();
stdout.write(JSON.stringify({ tools: tools.map(tool => tool.name), echoed, progress, stepped, asked }));

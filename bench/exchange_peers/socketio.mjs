// The peer `socket.io`: one emit to everybody, over its WebSocket transport alone.

import { createServer } from 'node:http'
import { Server } from 'socket.io'
import { serve } from './peer.mjs'

// On the wire it is `42["ev","xx..."]`, and all of that is the frame.
const text = 'x'.repeat(Number(process.argv[2]) - '42["ev",""]'.length)
const http = createServer()
const io = new Server(http, { transports: ['websocket'], perMessageDeflate: false, serveClient: false })

await serve(http, () => io.emit('ev', text))

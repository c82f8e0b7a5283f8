// The peer `ws`: the loop over all clients that its documentation shows for a broadcast.

import { createServer } from 'node:http'
import { WebSocket, WebSocketServer } from 'ws'
import { serve } from './peer.mjs'

const text = Buffer.alloc(Number(process.argv[2]), 'x')
const http = createServer()
const sockets = new WebSocketServer({ server: http, perMessageDeflate: false })
sockets.on('connection', (socket) => {
  socket.on('error', () => {})
})

await serve(http, () => {
  for (const socket of sockets.clients) {
    if (socket.readyState === WebSocket.OPEN) socket.send(text, { binary: false })
  }
})

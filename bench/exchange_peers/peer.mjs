// What every Node.js peer does: say its ports, broadcast once per byte on its trigger port, end with its parent.

import { createServer } from 'node:net'
import { once } from 'node:events'

/** Start what is triggered, print `PORT TRIGGER_PORT`, and end when standard input is closed. */
export async function serve(http, broadcast) {
  http.listen({ port: 0, host: '127.0.0.1', backlog: 4096 })
  const trigger = createServer((socket) => {
    socket.setNoDelay(true)
    socket.on('error', () => {})
    socket.on('data', (bytes) => {
      for (let left = bytes.length; left > 0; left -= 1) broadcast()
    })
  })
  trigger.listen({ port: 0, host: '127.0.0.1' })
  await Promise.all([once(http, 'listening'), once(trigger, 'listening')])
  console.log(`${http.address().port} ${trigger.address().port}`)
  process.stdin.resume()
  process.stdin.on('end', () => process.exit(0))
}

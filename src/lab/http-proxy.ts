import { connect, createServer } from 'node:net'

/*
 * The HTTP proxy of a site that lets nothing else out, as a company's: CONNECT only (RFC 9110 §9.3.6), to any host. Run in the
 * router: `node http-proxy.ts <address> <port>`; prints `ready`.
 */
const [address = '', port = ''] = process.argv.slice(2)
/** Small writes leave at once, as at any proxy that people use. */
const SOCKETS = { allowHalfOpen: true, noDelay: true }

const server = createServer(SOCKETS, (client) => {
  let head = ''
  client.on('error', () => client.destroy())
  client.on('data', function take(chunk: Buffer) {
    head += chunk.toString('latin1')
    const end = head.indexOf('\r\n\r\n')
    if (end < 0 && head.length < 8_192) return
    client.off('data', take)
    client.pause()
    const match = /^CONNECT \[?([^\s\]]+)\]?:(\d+) HTTP\/1\.[01]\r\n/.exec(head)
    if (end < 0 || match === null) {
      client.end('HTTP/1.1 405 Method Not Allowed\r\nAllow: CONNECT\r\nContent-Length: 0\r\n\r\n')
      return
    }
    const target = connect({ host: match[1] as string, port: Number(match[2]), ...SOCKETS })
    target.on('error', () => {
      if (target.connecting) client.end('HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n')
      else client.destroy()
    })
    client.on('close', () => target.destroy())
    target.on('close', () => client.end())
    target.on('connect', () => {
      client.write('HTTP/1.1 200 Connection established\r\n\r\n')
      const early = head.slice(end + 4)
      if (early !== '') target.write(early, 'latin1')
      client.pipe(target)
      target.pipe(client)
    })
  })
})
server.listen(Number(port), address, () => console.log('ready'))

import { createSocket } from 'node:dgram'
import { createServer } from 'node:http'

/**
 * The third dialect of the lab's router: UPnP IGD 1, as home routers speak it. It hears searches to the group only, puts space
 * around what it says, and knows no leases but those for ever. Written against the specification, not with the code it tests.
 */
export interface UpnpOptions {
  inside: string
  outside: string
  /** False when the port is somebody else's. */
  map: (wanted: { protocol: string; host: string; port: number; external: number }) => boolean
  unmap: (protocol: string, external: number) => boolean
}

const GROUP = '239.255.255.250'
const SERVICE = 'urn:schemas-upnp-org:service:WANIPConnection:1'
const DEVICES = ['urn:schemas-upnp-org:device:InternetGatewayDevice:1', SERVICE]
const HTTP_PORT = 5000

export function serveUpnp({ inside, outside, map, unmap }: UpnpOptions, ready: () => void): void {
  const search = createSocket({ type: 'udp4', reuseAddr: true })
  search.on('message', (packet, from) => {
    const text = packet.toString()
    const st = /^ST:\s*(\S+)/im.exec(text)?.[1] ?? ''
    if (!text.startsWith('M-SEARCH') || !/^HOST:\s*239\.255\.255\.250:1900/im.test(text) || !DEVICES.includes(st))
      return
    const answer = [
      'HTTP/1.1 200 OK',
      'CACHE-CONTROL: max-age=1800',
      'EXT:',
      `LOCATION: http://${inside}:${HTTP_PORT}/rootDesc.xml`,
      'SERVER: lab/1 UPnP/1.1',
      `ST: ${st}`,
      `USN: uuid:lab::${st}`,
      '',
      '',
    ]
    search.send(answer.join('\r\n'), from.port, from.address)
  })

  const calls: Record<string, (value: (name: string) => string) => string | number> = {
    GetExternalIPAddress: () => `<NewExternalIPAddress>\n  ${outside}\n</NewExternalIPAddress>`,
    AddPortMapping: (value) => {
      if (value('NewLeaseDuration') !== '0') return 725
      const [protocol, host] = [value('NewProtocol').toLowerCase(), value('NewInternalClient')]
      const [port, external] = [Number(value('NewInternalPort')), Number(value('NewExternalPort'))]
      return map({ protocol, host, port, external }) ? '' : 718
    },
    DeletePortMapping: (value) =>
      unmap(value('NewProtocol').toLowerCase(), Number(value('NewExternalPort'))) ? '' : 714,
  }
  const server = createServer((request, response) => {
    if (request.method === 'GET' && request.url === '/rootDesc.xml') {
      return response.end(
        `<?xml version="1.0"?>\n<root xmlns="urn:schemas-upnp-org:device-1-0"><!-- lab -->
        <device><deviceType>${DEVICES[0]}</deviceType><deviceList><device><serviceList><service>
          <serviceType>${SERVICE}</serviceType><controlURL>/ctl/IPConn</controlURL>
        </service></serviceList></device></deviceList></device></root>`,
      )
    }
    let body = ''
    request.on('data', (chunk) => (body += String(chunk)))
    request.on('end', () => {
      const action = /#(\w+)"?$/.exec(String(request.headers['soapaction']))?.[1] ?? ''
      const said = calls[action]?.((name) => new RegExp(`<${name}>([^<]*)</`).exec(body)?.[1] ?? '') ?? 401
      response.statusCode = typeof said === 'number' ? 500 : 200
      const inner =
        typeof said === 'number'
          ? `<s:Fault><detail><UPnPError>\n<errorCode>\n${said}\n</errorCode></UPnPError></detail></s:Fault>`
          : `<u:${action}Response xmlns:u="${SERVICE}">${said}</u:${action}Response>`
      response.end(`<?xml version="1.0"?>\r\n<s:Envelope><s:Body>${inner}</s:Body></s:Envelope>`)
    })
    return undefined
  })
  search.bind(1900, () => {
    search.addMembership(GROUP, inside)
    server.listen(HTTP_PORT, inside, ready)
  })
}

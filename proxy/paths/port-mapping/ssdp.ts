import { createSocket, type Socket } from 'node:dgram'
import type { Clock } from '../../../src/core/kit/clock.ts'
import { ignore } from '../../../src/core/kit/ignore.ts'

/*
 * Whether the router speaks UPnP, and where (UPnP Device Architecture 1.1 §1.3). Any machine in the network may answer a search;
 * only what the gateway says about itself counts.
 *
 *     M-SEARCH * HTTP/1.1 …  ──▶ gateway:1900, and 239.255.255.250:1900 for routers that listen only there
 *     HTTP/1.1 200 OK, LOCATION: http://gateway:49152/rootDesc.xml  ◀── from the gateway's address, whatever port
 */
export const SEARCH_PORT = 1900
const GROUP = '239.255.255.250'
/** IGD:2 devices answer searches for IGD:1 (UPnP IGD:2 §2.1). */
const WANTED = [
  'urn:schemas-upnp-org:device:InternetGatewayDevice:1',
  'urn:schemas-upnp-org:service:WANIPConnection:1',
] as const
const TRIES_MS = [500, 1_000] as const
/** A longer packet is no answer to a search. */
const MOST_BYTES = 2_048
/** Hops of a multicast search: it must not leave our own network. */
const HOPS = 2

export interface SearchOptions {
  gateway: string
  /** Our address towards the gateway. */
  own: string
  /** 1900, except in tests. */
  port?: number
  clock: Clock
}

/** The URL of the gateway's description; `undefined` when it does not answer. */
export async function search(
  { gateway, own, port = SEARCH_PORT, clock }: SearchOptions,
  signal: AbortSignal,
): Promise<URL | undefined> {
  const socket = createSocket('udp4')
  const arrived = new AbortController()
  let found: URL | undefined
  socket.on('error', ignore) // the gateway cannot be reached: the same as no answer
  socket.on('message', (packet, from) => {
    if (from.address !== gateway || found !== undefined) return
    found = locationIn(packet, gateway)
    if (found !== undefined) arrived.abort()
  })
  try {
    await bound(socket, own)
    const limit = AbortSignal.any([signal, arrived.signal])
    for (const ms of TRIES_MS) {
      if (limit.aborted) break
      for (const wanted of WANTED) {
        // loopback has no multicast
        for (const to of own.startsWith('127.') ? [gateway] : [gateway, GROUP])
          socket.send(searchRequest(wanted, `${to}:${port}`), port, to, ignore)
      }
      await clock.sleep(ms, limit)
    }
    return found
  } catch {
    return undefined
  } finally {
    socket.close()
  }
}

/** `undefined` when it is no answer, or points anywhere but to the gateway. */
export function locationIn(packet: Buffer, gateway: string): URL | undefined {
  if (packet.length > MOST_BYTES) return undefined
  const [status = '', ...lines] = packet.toString('latin1').split('\r\n')
  if (!/^HTTP\/1\.[01] 200( |$)/.test(status)) return undefined
  const headers = new Map(
    lines.flatMap((line): [string, string][] => {
      const colon = line.indexOf(':')
      return colon < 1 ? [] : [[line.slice(0, colon).trim().toLowerCase(), line.slice(colon + 1).trim()]]
    }),
  )
  if (!(WANTED as readonly string[]).includes(headers.get('st') ?? '')) return undefined
  return urlAt(headers.get('location') ?? '', gateway)
}

/** A URL on the gateway itself, by its address; `undefined` for any other. */
export function urlAt(text: string, gateway: string, base?: URL): URL | undefined {
  const url = URL.parse(text, base?.href)
  const isOnGateway =
    url?.protocol === 'http:' && url.hostname === gateway && url.username === '' && url.password === ''
  return isOnGateway && text.length <= 1_024 ? url : undefined
}

function searchRequest(wanted: string, host: string): string {
  return ['M-SEARCH * HTTP/1.1', `HOST: ${host}`, 'MAN: "ssdp:discover"', 'MX: 1', `ST: ${wanted}`, '', ''].join('\r\n')
}

function bound(socket: Socket, own: string): Promise<void> {
  return new Promise((resolve, reject) => {
    socket.once('error', reject)
    socket.bind({ address: own, port: 0 }, () => {
      socket.off('error', reject)
      socket.setMulticastTTL(HOPS)
      socket.setMulticastInterface(own)
      resolve()
    })
  })
}

import { createSocket, type Socket } from 'node:dgram'
import type { Clock } from '../../../src/core/kit/clock.ts'

/*
 * Whether the router speaks UPnP, and where (UPnP Device Architecture 1.1 §1.3). Anybody in the network may answer such a search:
 * nothing counts but what the gateway says, about itself.
 *
 *     M-SEARCH * HTTP/1.1 …  ──▶ gateway:1900, and 239.255.255.250:1900 for routers that hear only that
 *     HTTP/1.1 200 OK, LOCATION: http://gateway:49152/rootDesc.xml  ◀── from the gateway's address, whatever port
 */
export const SEARCH_PORT = 1900
const GROUP = '239.255.255.250'
/** Routers of the second version answer to the first (UPnP IGD:2 §2.1). */
const WANTED = [
  'urn:schemas-upnp-org:device:InternetGatewayDevice:1',
  'urn:schemas-upnp-org:service:WANIPConnection:1',
] as const
const TRIES_MS = [500, 1_000] as const
/** Longer is no answer to a search. */
const MOST_BYTES = 2_048
/** No further than our own network. */
const HOPS = 2

export interface SearchOptions {
  gateway: string
  /** Our address towards it. */
  own: string
  /** 1900, but in tests. */
  port?: number
  clock: Clock
}

/** Where the gateway describes itself; `undefined` when it does not say. */
export async function search(
  { gateway, own, port = SEARCH_PORT, clock }: SearchOptions,
  signal: AbortSignal,
): Promise<URL | undefined> {
  const socket = createSocket('udp4')
  const got = new AbortController()
  let found: URL | undefined
  socket.on('error', () => undefined) // there is no way to it: the same as no answer
  socket.on('message', (packet, from) => {
    if (from.address !== gateway || found !== undefined) return
    found = locationIn(packet, gateway)
    if (found !== undefined) got.abort()
  })
  try {
    await bound(socket, own)
    const over = AbortSignal.any([signal, got.signal])
    for (const ms of TRIES_MS) {
      if (over.aborted) break
      for (const wanted of WANTED) {
        // loopback has no groups
        for (const to of own.startsWith('127.') ? [gateway] : [gateway, GROUP])
          socket.send(question(wanted, `${to}:${port}`), port, to, () => undefined)
      }
      await clock.sleep(ms, over)
    }
    return found
  } catch {
    return undefined
  } finally {
    socket.close()
  }
}

/** `undefined` when it is no answer, or points anywhere else than to the gateway. */
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

/** A page of the gateway itself, by its address; nothing else is ever asked for. */
export function urlAt(text: string, gateway: string, base?: URL): URL | undefined {
  const url = URL.parse(text, base?.href)
  const isIts = url?.protocol === 'http:' && url.hostname === gateway && url.username === '' && url.password === ''
  return isIts && text.length <= 1_024 ? url : undefined
}

function question(wanted: string, host: string): string {
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

import { execFile } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { readNetwork, type InterfaceFilter, type DefaultRoute, type Network } from '../core/kit/network.ts'

/** What a machine knows about its own network, without asking another one. */
export interface LocalFacts {
  /** Addresses of the interfaces that lead out. */
  addresses: readonly string[]
  defaults: ReadonlyArray<DefaultRoute & { mtu?: number; congestion?: string; route?: string }>
  /** The HTTP proxy for HTTPS, without its credentials. */
  proxy?: string
  settings: Readonly<Record<string, string>>
}

/** Kernel settings that matter for flows (/proc/sys); each may be absent. */
export const SETTINGS = [
  'net/ipv4/tcp_congestion_control',
  'net/ipv4/tcp_available_congestion_control',
  'net/ipv4/tcp_slow_start_after_idle',
  'net/ipv4/tcp_notsent_lowat',
  'net/core/rmem_max',
] as const

export interface LocalOptions {
  isOutward: InterfaceFilter
  /** Where `HTTPS_PROXY` is read. */
  environment: Readonly<Record<string, string | undefined>>
  network?: Network
}

export async function localFacts({
  isOutward,
  environment,
  network = readNetwork(isOutward),
}: LocalOptions): Promise<LocalFacts> {
  const proxy = proxyOf(environment)
  const defaults = await Promise.all(
    network.defaults.map(async (route) => {
      const text = await routesOf(route)
      const { mtu, congestion } = routeMetrics(text)
      const line = routeLine(text, route)
      const own = mtu ?? mtuOf(route.device)
      return {
        ...route,
        ...(own === undefined ? {} : { mtu: own }),
        ...(congestion === undefined ? {} : { congestion }),
        ...(line === undefined ? {} : { route: line }),
      }
    }),
  )
  const settings = Object.fromEntries(
    SETTINGS.map((name) => [name, textOf(`/proc/sys/${name}`)]).filter(([, value]) => value !== ''),
  ) as Record<string, string>
  return { addresses: network.outward, defaults, ...(proxy === undefined ? {} : { proxy }), settings }
}

/** The attributes of a default route: `… congctl bbr mtu 1400`. */
export function routeMetrics(text: string): { mtu?: number; congestion?: string } {
  const congestion = /\bcongctl (?:lock )?(\S+)/.exec(text)?.[1]
  const mtu = /\bmtu (?:lock )?(\d+)/.exec(text)?.[1]
  return { ...(mtu === undefined ? {} : { mtu: Number(mtu) }), ...(congestion === undefined ? {} : { congestion }) }
}

/** Attributes that describe the state of a route and do not belong to its identity. */
const STATE = / (?:linkdown|dead|offload|trap|expires \S+|error \S+|congctl (?:lock )?\S+)/g

/** The route as `ip route change` takes it; `undefined` when it has characters that a shell would interpret. */
export function routeLine(
  text: string,
  { device, metric }: Pick<DefaultRoute, 'device' | 'metric'>,
): string | undefined {
  const lines = text.split('\n').filter((line) => line.startsWith('default'))
  const line = lines.find((one) => Number(/ metric (\d+)/.exec(one)?.[1] ?? 0) === metric) ?? lines[0]
  const route = line
    ?.trimEnd()
    .replace(STATE, '')
    .replace(/^(default(?: via \S+)?)/, `$1 dev ${device}`)
  return route !== undefined && /^[\w .:/@-]+$/.test(route) ? route.trim() : undefined
}

/** Without user name and password. */
function proxyOf(environment: LocalOptions['environment']): string | undefined {
  const text = environment['https_proxy'] ?? environment['HTTPS_PROXY']
  if (text === undefined || text === '') return undefined
  return /^https?:/i.test(text) && URL.canParse(text) ? new URL(text).origin : text.replace(/^.*@/, '')
}

/** Empty where there is no iproute2. */
function routesOf({ family, device }: DefaultRoute): Promise<string> {
  const args = [family === 'ipv4' ? '-4' : '-6', 'route', 'show', 'default', 'dev', device]
  return new Promise((resolve) => {
    execFile('ip', args, { timeout: 2_000, env: { PATH: '/usr/sbin:/sbin:/usr/bin:/bin' } }, (error, stdout) =>
      resolve(error === null ? stdout : ''),
    )
  })
}

function mtuOf(device: string): number | undefined {
  const mtu = Number.parseInt(textOf(`/sys/class/net/${device}/mtu`), 10)
  return Number.isNaN(mtu) ? undefined : mtu
}

function textOf(path: string): string {
  try {
    return readFileSync(path, 'latin1').trim()
  } catch {
    return ''
  }
}

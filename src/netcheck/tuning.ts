import type { LocalFacts } from './local.ts'

/** A kernel setting that matters for flows. */
export interface Tuning {
  check: string
  finding: string
  /** The case in which it helps; any when absent. */
  when?: string
  /** Commands that would improve it; none when it is fine. */
  commands: readonly string[]
}

/** With less, a burst of sealed datagrams is lost while the agent is busy. */
const RECEIVE_BYTES = 4 * 1024 * 1024
/** The kernel's default for unsent bytes per connection. */
const UNLIMITED = 0xffff_ffff
const UNSENT_BYTES = 131_072

/**
 * What could be tuned for flows between nodes. All of it is optional: `hedgerow netcheck --tune` prints the commands, and
 * hedgerow never runs them itself.
 */
export function tuningOf({ settings, defaults }: Pick<LocalFacts, 'settings' | 'defaults'>): Tuning[] {
  const value = (name: string) => (settings[name] === undefined ? undefined : Number(settings[name]))
  const found: Tuning[] = []
  if (value('net/ipv4/tcp_slow_start_after_idle') === 1)
    found.push({
      check: 'tcp_slow_start_after_idle',
      finding: '1: a connection that was idle starts slowly again',
      commands: ['sysctl -w net.ipv4.tcp_slow_start_after_idle=0'],
    })
  if (value('net/ipv4/tcp_notsent_lowat') === UNLIMITED)
    found.push({
      check: 'tcp_notsent_lowat',
      finding: 'unlimited: small requests may wait in the kernel behind bulk data',
      commands: [`sysctl -w net.ipv4.tcp_notsent_lowat=${UNSENT_BYTES}`],
    })
  found.push(...congestionOf({ settings, defaults }))
  if ((value('net/core/rmem_max') ?? RECEIVE_BYTES) < RECEIVE_BYTES)
    found.push({
      check: 'rmem_max',
      finding: `${settings['net/core/rmem_max']} bytes: bursts of datagrams may be lost`,
      commands: [`sysctl -w net.core.rmem_max=${RECEIVE_BYTES}`],
    })
  return found
}

/** Changed for the default routes only, which lead to other sites: traffic inside this network stays as it is. */
function congestionOf({ settings, defaults }: Pick<LocalFacts, 'settings' | 'defaults'>): Tuning[] {
  const congestion = settings['net/ipv4/tcp_congestion_control']
  if (congestion === undefined) return []
  const own = defaults.filter((route) => route.congestion !== undefined)
  const finding = [congestion, ...own.map((route) => `${route.congestion} for the default route by ${route.device}`)]
  const isBbr = congestion === 'bbr' || own.some((route) => route.congestion === 'bbr')
  const isThere = (settings['net/ipv4/tcp_available_congestion_control'] ?? '').split(' ').includes('bbr')
  const routes = defaults.flatMap(({ family, route }) =>
    route === undefined ? [] : [`ip -${family === 'ipv4' ? 4 : 6} route change ${route} congctl bbr`],
  )
  const choose = routes.length > 0 ? routes : ['sysctl -w net.ipv4.tcp_congestion_control=bbr']
  const commands = isBbr ? [] : [...(isThere ? [] : ['modprobe tcp_bbr']), ...choose]
  return [{ check: 'congestion control', finding: finding.join('; '), when: ', for lossy paths', commands }]
}

/** The commands, each with its reason, as a shell script. */
export function tuningScript(tunings: readonly Tuning[]): string[] {
  const useful = tunings.filter(({ commands }) => commands.length > 0)
  if (useful.length === 0) return ['# nothing to tune']
  return [
    '# optional, and undone by a reboot; read it, then run as root: hedgerow netcheck --tune | sh',
    ...useful.flatMap(({ check, finding, when = '', commands }) => [`# ${check}${when}: ${finding}`, ...commands]),
  ]
}

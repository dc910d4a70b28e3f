import { writeFileSync } from 'node:fs'
import type { Ground } from '../ground.ts'

/** dnsmasq as a name server of its own: the names are address records in its configuration, nothing is asked upstream. */
export async function startDnsmasq(ground: Ground, names: readonly string[]): Promise<number> {
  const port = await ground.port()
  const file = ground.path('dnsmasq.conf')
  const records = names.map((name, i) => `host-record=${name},127.31.${i >> 8}.${i & 255}\n`)
  const settings = ['keep-in-foreground', 'no-resolv', 'no-hosts', 'bind-interfaces', 'listen-address=127.0.0.1']
  writeFileSync(
    file,
    [...settings, `port=${port}`, `pid-file=${ground.path('dnsmasq.pid')}`, ''].join('\n') + records.join(''),
  )
  const program = ground.start('a', ['dnsmasq', '--user=', '--group=', `--conf-file=${file}`])
  await ground.listening(program, port, 'udp')
  return port
}

import { execFile, spawn, type ChildProcess } from 'node:child_process'
import { mkdirSync, writeFileSync } from 'node:fs'
import { createConnection } from 'node:net'
import { join } from 'node:path'
import { promisify } from 'node:util'

const run = promisify(execFile)

/** One way from the load generator to the same origin: a web address and an iperf3 address. */
export interface Lane {
  name: string
  web: string
  iperf: { host: string; port: number }
}

/** Processes this benchmark started; ended by pid, newest first. */
export class Started implements AsyncDisposable {
  readonly #children: ChildProcess[] = []

  start(program: string, argv: readonly string[]): ChildProcess {
    const child = spawn(program, argv, { stdio: ['ignore', 'ignore', 'pipe'] })
    child.stderr?.on('data', (chunk: Buffer) => {
      if (process.argv.includes('--verbose')) process.stderr.write(chunk)
    })
    this.#children.push(child)
    return child
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const child of this.#children.toReversed()) {
      if (child.exitCode !== null || child.signalCode !== null) continue
      const gone = new Promise((resolve) => child.once('exit', resolve))
      child.kill('SIGTERM')
      const firm = setTimeout(() => child.kill('SIGKILL'), 5_000)
      await gone
      clearTimeout(firm)
    }
  }
}

export async function isInstalled(program: string): Promise<boolean> {
  return run('which', [program]).then(
    () => true,
    () => false,
  )
}

/** HAProxy as the origin (it answers from memory), one plain hop, and a pair joined by TLS 1.3. */
export async function startHaproxy(
  started: Started,
  dir: string,
  ports: { origin: number; plain: number; front: number; back: number; iperf: number },
): Promise<Lane[]> {
  mkdirSync(dir, { recursive: true })
  await run('openssl', [
    'req',
    '-x509',
    '-newkey',
    'ec',
    '-pkeyopt',
    'ec_paramgen_curve:prime256v1',
    '-nodes',
    '-days',
    '2',
    '-subj',
    '/CN=bench',
    '-keyout',
    join(dir, 'key.pem'),
    '-out',
    join(dir, 'cert.pem'),
  ])
  await run('sh', ['-c', `cat ${join(dir, 'cert.pem')} ${join(dir, 'key.pem')} > ${join(dir, 'both.pem')}`])
  const head =
    'global\n  maxconn 4000\n  nbthread 1\ndefaults\n  timeout connect 5s\n  timeout client 1m\n  timeout server 1m\n'
  const files: Record<string, string> = {
    origin: `${head}frontend origin\n  mode http\n  bind 127.0.0.1:${ports.origin}\n  http-request return status 200 content-type text/plain string "hedgerow bench"\n`,
    plain: `${head}listen web\n  mode tcp\n  bind 127.0.0.1:${ports.plain}\n  server o 127.0.0.1:${ports.origin}\nlisten iperf\n  mode tcp\n  bind 127.0.0.1:${ports.plain + 1}\n  server i 127.0.0.1:${ports.iperf}\n`,
    front: `${head}listen web\n  mode tcp\n  bind 127.0.0.1:${ports.front}\n  server b 127.0.0.1:${ports.back} ssl verify none ssl-min-ver TLSv1.3 crt ${join(dir, 'both.pem')}\nlisten iperf\n  mode tcp\n  bind 127.0.0.1:${ports.front + 1}\n  server b 127.0.0.1:${ports.back + 1} ssl verify none ssl-min-ver TLSv1.3 crt ${join(dir, 'both.pem')}\n`,
    back: `${head}listen web\n  mode tcp\n  bind 127.0.0.1:${ports.back} ssl crt ${join(dir, 'both.pem')} ssl-min-ver TLSv1.3 verify required ca-file ${join(dir, 'cert.pem')}\n  server o 127.0.0.1:${ports.origin}\nlisten iperf\n  mode tcp\n  bind 127.0.0.1:${ports.back + 1} ssl crt ${join(dir, 'both.pem')} ssl-min-ver TLSv1.3 verify required ca-file ${join(dir, 'cert.pem')}\n  server i 127.0.0.1:${ports.iperf}\n`,
  }
  for (const [name, text] of Object.entries(files)) {
    const path = join(dir, `${name}.cfg`)
    writeFileSync(path, text)
    started.start('haproxy', ['-db', '-f', path])
  }
  started.start('iperf3', ['-s', '-B', '127.0.0.1', '-p', String(ports.iperf)])
  for (const port of [ports.origin, ports.plain, ports.front, ports.back, ports.iperf]) await answers('127.0.0.1', port)
  const lane = (name: string, web: number, iperf: number): Lane => ({
    name,
    web: `http://127.0.0.1:${web}/`,
    iperf: { host: '127.0.0.1', port: iperf },
  })
  return [
    lane('direct', ports.origin, ports.iperf),
    lane('HAProxy, one plain hop', ports.plain, ports.plain + 1),
    lane('HAProxy → TLS 1.3 → HAProxy', ports.front, ports.front + 1),
  ]
}

/** Resolves when the port takes connections; gives up after 20 s. */
export async function answers(host: string, port: number): Promise<void> {
  const limit = Date.now() + 20_000
  while (Date.now() < limit) {
    const isUp = await new Promise<boolean>((resolve) => {
      const probe = createConnection({ host, port }, () => {
        probe.destroy()
        resolve(true)
      })
      probe.on('error', () => resolve(false))
    })
    if (isUp) return
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
  throw new Error(`nothing answers on ${host}:${port}`)
}

export interface Load {
  connections: number
  seconds: number
  /** A new connection for each request. */
  fresh?: boolean
}

/** Requests a second and the median and 99th percentile latency in ms, by wrk. */
export async function wrk(
  url: string,
  { connections, seconds, fresh = false }: Load,
): Promise<{ perSecond: number; p50: number; p99: number; errors: number }> {
  const argv = [
    '-t1',
    `-c${connections}`,
    `-d${seconds}s`,
    '--latency',
    ...(fresh ? ['-H', 'Connection: close'] : []),
    url,
  ]
  const { stdout } = await run('wrk', argv)
  const socketErrors = /Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)/.exec(stdout)
  return {
    perSecond: Number(/Requests\/sec:\s+([\d.]+)/.exec(stdout)?.[1] ?? 0),
    p50: milliseconds(/50%\s+([\d.]+\w+)/.exec(stdout)?.[1]),
    p99: milliseconds(/99%\s+([\d.]+\w+)/.exec(stdout)?.[1]),
    errors: socketErrors === null ? 0 : socketErrors.slice(1).reduce((sum, count) => sum + Number(count), 0),
  }
}

/** Gbit/s as the receiver counts them. */
export async function iperf({ host, port }: Lane['iperf'], seconds: number, streams = 1): Promise<number> {
  const { stdout } = await run('iperf3', [
    '-c',
    host,
    '-p',
    String(port),
    '-t',
    String(seconds),
    '-P',
    String(streams),
    '-J',
  ])
  const { end } = JSON.parse(stdout) as { end: { sum_received: { bits_per_second: number } } }
  return end.sum_received.bits_per_second / 1e9
}

function milliseconds(text = 'NaN'): number {
  const value = Number.parseFloat(text)
  if (text.endsWith('us')) return value / 1000
  return text.endsWith('ms') ? value : value * 1000
}

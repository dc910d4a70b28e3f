import { spawn } from 'node:child_process'
import type { Command } from 'commander'
import { once } from 'node:events'
import { MeshError } from '../core/errors.ts'
import { credentialOf, type Context } from './context.ts'
import { DashboardServer } from './dashboard-server.ts'
import { isData, printData } from './output.ts'
import { note, say } from './terminal.ts'

export function dashboardCommand(program: Command, context: () => Context): void {
  program
    .command('dashboard')
    .description(
      'print an address of this machine under which a browser shows the mesh, until Ctrl-C; whoever has the address can do what the credential can',
    )
    .option('--port <n>', 'the port, on 127.0.0.1 (else any that is free)', '0')
    .option('--open', 'also open it in the browser of this machine (xdg-open)')
    .action(async ({ port, open }: { port: string; open?: boolean }) => {
      const here = context()
      const credential = credentialOf(here)
      const interrupted = new AbortController()
      for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.once(name, () => interrupted.abort())
      await using server = await DashboardServer.start(credential, portOf(port))
      if (isData(here)) await printData({ url: server.url, root: credential.url }, here)
      else {
        say(server.url)
        note(`The page of the root ${credential.url}. The address works while this runs; Ctrl-C ends it.`)
      }
      if (open) openBrowser(server.url)
      if (!interrupted.signal.aborted) await once(interrupted.signal, 'abort')
    })
}

function portOf(given: string): number {
  const port = /^\d{1,5}$/.test(given) ? Number(given) : Number.NaN
  if (port <= 65_535) return port
  throw new MeshError('USAGE', {
    option: '--port',
    given,
    remedy: 'Give a number up to 65535; 0 for any that is free.',
  })
}

export function openBrowser(url: string): void {
  const opener = spawn('xdg-open', [url], { stdio: 'ignore', detached: true })
  opener.on('error', () => note('There is no xdg-open on this machine: open the address by hand.'))
  opener.unref()
}

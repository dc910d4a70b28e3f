import { mkdirSync, readFileSync, rmSync } from 'node:fs'
import { dirname } from 'node:path'
import type { Command } from 'commander'
import { RootClient, type Credential } from '../client/root-client.ts'
import { MeshError } from '../core/errors.ts'
import { fetchCa } from '../core/identity/tls.ts'
import { stateProblem } from '../core/kit/disk.ts'
import { replaceFile } from '../core/kit/plain-file.ts'
import { type Context, credentialOf, loginPath, rootClient } from './context.ts'
import { secondsOf } from './duration.ts'
import { openBrowser } from './dashboard.ts'
import { oidcLogin, type Session } from './oidc-login.ts'
import { isData, printData, printTable } from './output.ts'
import { note, say } from './terminal.ts'
import { typedSecrets } from './typed-secret.ts'

interface LoginOptions {
  user?: string
  oidc?: boolean
  open?: boolean
  fingerprint?: string
  ca?: string
  ttl: string
}

export function loginCommands(program: Command, context: () => Context): void {
  program
    .command('login')
    .description(
      'log in at a root as a user, with the password from standard input or by an identity provider; the commands that follow are asked as this user',
    )
    .argument(
      '[url]',
      'of the root, for example https://root.example:7470 (else the one of the credential that is here)',
    )
    .option('--user <name>', 'the user')
    .option('--oidc', 'log in with a browser of this machine, by the identity provider of the root (root.oidc)')
    .option('--open', 'with --oidc: also open that browser (xdg-open)')
    .option(
      '--fingerprint <hex>',
      'SHA-256 of the certificate of the mesh’s authority, by which the root is known at the first time',
    )
    .option('--ca <file>', 'the certificate of the mesh’s authority, instead of its fingerprint')
    .option('--ttl <duration>', 'how long the session lasts, at most 30d', '12h')
    .action(
      async (url: string | undefined, { user: name, oidc = false, open = false, ttl, ...known }: LoginOptions) => {
        const here = context()
        if (oidc === (name !== undefined))
          throw new MeshError('USAGE', { reason: 'who logs in', remedy: 'Give either --user NAME or --oidc.' })
        const ttlSeconds = secondsOf(ttl, '--ttl')
        const root = await rootAt(url, known, here)
        const client = new RootClient({ ...root, token: 'none' })
        const show = (address: string) => {
          note(`Log in with a browser of this machine: ${address}`)
          if (open) openBrowser(address)
        }
        const { user, token, expiresAt } =
          name === undefined
            ? await oidcLogin(client, { ttlSeconds, show })
            : await byPassword(client, name, ttlSeconds)
        await save(loginPath(here), { ...root, token })
        if (isData(here)) return printData({ user, url: root.url, expiresAt, credential: loginPath(here) }, here)
        say(`logged in as ${user} at ${root.url}, until ${new Date(expiresAt).toISOString()}`)
      },
    )

  program
    .command('logout')
    .description('end the session of `hedgerow login`')
    .action(async () => {
      const here = context()
      const answer = await rootClient(here).ask('POST', '/v1/logout', {})
      rmSync(loginPath(here), { force: true })
      if (isData(here)) return printData(answer, here)
      say(`${answer.user} is logged out`)
    })

  program
    .command('whoami')
    .description('show as whom the root is asked, and what that may do')
    .action(async () => {
      const here = context()
      const me = await rootClient(here).ask('GET', '/v1/me', {})
      if (isData(here)) return printData(me, here)
      const { url } = credentialOf(here)
      printTable(
        ['user', ''],
        [
          ['user', me.user],
          ['root', url],
          ['known by', BY[me.by]],
          ['until', me.expiresAt === undefined ? undefined : new Date(me.expiresAt).toISOString()],
          ['roles', me.grants.map(grantText)],
          ...(me.limits?.grants === undefined ? [] : [['no more than', me.limits.grants.map(grantText)] as const]),
          ...(me.limits?.apps === undefined ? [] : [['only apps', me.limits.apps] as const]),
        ],
      )
      if (me.organisations.length === 0) return
      printTable(
        ['organisation', 'namespaces', 'permissions'],
        me.organisations.map(({ name, namespaces, permissions }) => [name, namespaces, permissions.join(' ')]),
      )
    })
}

async function byPassword(client: RootClient, user: string, ttlSeconds: number): Promise<Session> {
  const [password = ''] = await typedSecrets(['Password'])
  const { token = '', expiresAt } = await client.ask('POST', '/v1/login', { body: { user, password, ttlSeconds } })
  return { user, token, expiresAt }
}

const BY = { credential: 'the credential of the root', token: 'an API token', session: 'a session' } as const

/** `viewer of acme` */
export function grantText({ role, organisation }: { role: string; organisation?: string }): string {
  return organisation === undefined ? role : `${role} of ${organisation}`
}

/** @throws MeshError USAGE when nothing says by which certificate the root is known */
async function rootAt(
  url: string | undefined,
  { fingerprint, ca }: Pick<LoginOptions, 'fingerprint' | 'ca'>,
  here: Context,
): Promise<Omit<Credential, 'token'>> {
  if (url !== undefined && URL.parse(url)?.protocol !== 'https:')
    throw new MeshError('USAGE', {
      option: 'url',
      given: url,
      remedy: 'Expected an address such as https://root.example:7470.',
    })
  if (url !== undefined && ca !== undefined) return { url, ca: certificateIn(ca) }
  if (url !== undefined && fingerprint !== undefined)
    return { url, ca: await fetchCa(url, fingerprint.toLowerCase().replaceAll(':', ''), AbortSignal.timeout(30_000)) }
  const known = knownRoot(here)
  if (known !== undefined && (url === undefined || new URL(url).origin === new URL(known.url).origin)) return known
  throw new MeshError('USAGE', {
    reason: 'nothing here says by which certificate this root is known',
    remedy: 'Give its URL and --fingerprint, which `hedgerow user create` prints, or --ca FILE.',
  })
}

function knownRoot(here: Context): Omit<Credential, 'token'> | undefined {
  try {
    const { url, ca } = credentialOf(here)
    return { url, ca }
  } catch {
    return undefined
  }
}

function certificateIn(file: string): string {
  try {
    return readFileSync(file, 'utf8')
  } catch (cause) {
    throw new MeshError('USAGE', { file }, { cause })
  }
}

/** @throws MeshError DISK_FULL, STATE_UNREADABLE */
async function save(path: string, credential: Credential): Promise<void> {
  try {
    mkdirSync(dirname(path), { recursive: true, mode: 0o700 })
  } catch (cause) {
    throw stateProblem(path, cause)
  }
  await replaceFile(path, `${JSON.stringify(credential, undefined, 2)}\n`)
  note(`${path} has the session; \`hedgerow logout\` ends it.`)
}

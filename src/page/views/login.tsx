import { useEffect, useState } from 'preact/hooks'
import { Api, ApiError } from '../live/api.ts'
import { loginWays, logIn } from '../live/people.ts'
import type { Auth } from '../live/session.ts'
import { tokenIn } from '../model/typed-token.ts'

interface Props {
  /** Why one that was there before is not taken. */
  problem: string | undefined
  enter: (auth: Auth) => void
}

/** By name and password, by the identity provider of the root where it has one, or with a token. */
export function Login({ problem, enter }: Props) {
  return (
    <main class="login">
      <div class="card-login">
        <img src="icon.svg" width="44" height="44" alt="" />
        <h1>hedgerow</h1>
        <ByPassword problem={problem} enter={enter} />
        <ByProvider />
        <details>
          <summary>With a token instead</summary>
          <ByToken enter={enter} />
        </details>
      </div>
    </main>
  )
}

function ByPassword({ problem, enter }: Props) {
  const [fault, setFault] = useState(problem)
  const [isBusy, setBusy] = useState(false)
  const submit = async (event: SubmitEvent) => {
    event.preventDefault()
    const entered = new FormData(event.currentTarget as HTMLFormElement)
    setBusy(true)
    setFault(undefined)
    try {
      await logIn(new Api(undefined), textOf(entered, 'user').trim(), textOf(entered, 'password'))
      enter({ kind: 'session' })
    } catch (error) {
      setFault(refusalText(error))
      setBusy(false)
    }
  }
  return (
    <form onSubmit={(event) => void submit(event)}>
      <label for="user">User</label>
      <input
        id="user"
        name="user"
        autocomplete="username"
        autocapitalize="none"
        spellcheck={false}
        required
        autofocus
      />
      <label for="password">Password</label>
      <input
        id="password"
        name="password"
        type="password"
        autocomplete="current-password"
        required
        aria-describedby="login-fault"
      />
      <p id="login-fault" class="fault" role="alert">
        {fault}
      </p>
      <button type="submit" class="button primary" disabled={isBusy}>
        Log in
      </button>
    </form>
  )
}

/** Nothing where the root has none, or cannot be asked: name and password say what is wrong then. */
function ByProvider() {
  const [provider, setProvider] = useState<{ issuer: string; url: string }>()
  useEffect(() => {
    const asking = new AbortController()
    loginWays(new Api(undefined), asking.signal).then(
      ({ oidc }) => setProvider(oidc),
      () => undefined,
    )
    return () => asking.abort()
  }, [])
  if (provider === undefined) return null
  return (
    <p>
      <a class="button" href={provider.url}>
        Log in with {new URL(provider.issuer).host}
      </a>
    </p>
  )
}

function ByToken({ enter }: Pick<Props, 'enter'>) {
  const [typed, setTyped] = useState('')
  const [fault, setFault] = useState<string>()
  const submit = (event: Event) => {
    event.preventDefault()
    const token = tokenIn(typed)
    if (token === undefined) setFault('That is neither a token nor a credential file.')
    else enter({ kind: 'token', token })
  }
  return (
    <form onSubmit={submit}>
      <label for="token">Token</label>
      <input
        id="token"
        type="password"
        autocomplete="off"
        spellcheck={false}
        value={typed}
        aria-invalid={fault !== undefined}
        aria-describedby="token-fault token-help"
        onInput={({ currentTarget }) => setTyped(currentTarget.value)}
      />
      <p id="token-fault" class="fault" role="alert">
        {fault}
      </p>
      <button type="submit" class="button">
        Use the token
      </button>
      <p id="token-help" class="muted">
        An API token, or the root’s <code>admin.json</code>, or the token in it. It is kept until this tab is closed.{' '}
        <code>hedgerow dashboard</code> opens this page with a token already in it.
      </p>
    </form>
  )
}

function textOf(entered: FormData, name: string): string {
  const value = entered.get(name)
  return typeof value === 'string' ? value : ''
}

function refusalText(error: unknown): string {
  const { status, message } = error as ApiError
  if (status === 401) return 'No such user, or not its password.'
  return status === 429 ? 'Too many tries. Wait a minute, and try again.' : message
}

import { useState } from 'preact/hooks'
import { tokenIn } from '../model/typed-token.ts'

interface Props {
  /** Why one that was there before is not taken. */
  problem: string | undefined
  enter: (token: string) => void
}

export function Login({ problem, enter }: Props) {
  const [typed, setTyped] = useState('')
  const [fault, setFault] = useState(problem)
  const submit = (event: Event) => {
    event.preventDefault()
    const token = tokenIn(typed)
    if (token === undefined) setFault('That is neither a token nor a credential file.')
    else enter(token)
  }
  return (
    <main class="login">
      <form onSubmit={submit}>
        <img src="icon.svg" width="44" height="44" alt="" />
        <h1>hedgerow</h1>
        <label for="token">Token</label>
        <input
          id="token"
          type="password"
          autocomplete="off"
          autofocus
          spellcheck={false}
          value={typed}
          aria-invalid={fault !== undefined}
          aria-describedby="token-fault token-help"
          onInput={({ currentTarget }) => setTyped(currentTarget.value)}
        />
        <p id="token-fault" class="fault" role="alert">
          {fault}
        </p>
        <button type="submit" class="button primary">
          Log in
        </button>
        <p id="token-help" class="muted">
          <code>hedgerow dashboard</code> opens this page with a token already in it. Otherwise paste the root’s{' '}
          <code>admin.json</code>, or the token in it. It is kept until this tab is closed.
        </p>
      </form>
    </main>
  )
}

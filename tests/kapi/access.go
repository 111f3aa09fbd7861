// SPDX-License-Identifier: Apache-2.0

// Who asks, and whether they may: by the roles and bindings that are stored here, as in a real cluster. Used by main.go.
// A bearer token is the name of its user; a request without one is an administrator's. What service accounts ask for is written down.

package main

import (
	"context"
	"encoding/json"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"

	rbac "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	"k8s.io/apimachinery/pkg/runtime"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/generic/registry"
)

const serviceAccounts = "system:serviceaccount:"

// authenticate believes what a token says.
func authenticate(r *http.Request) (*authenticator.Response, bool, error) {
	token, has := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !has {
		admin := &user.DefaultInfo{Name: "admin", Groups: []string{user.SystemPrivilegedGroup, user.AllAuthenticated}}
		return &authenticator.Response{User: admin}, true, nil
	}
	groups := []string{user.AllAuthenticated}
	if account, is := strings.CutPrefix(token, serviceAccounts); is {
		namespace, _, _ := strings.Cut(account, ":")
		groups = append(groups, "system:serviceaccounts", "system:serviceaccounts:"+namespace)
	}
	return &authenticator.Response{User: &user.DefaultInfo{Name: token, Groups: groups}}, true, nil
}

// access decides by roles.
type access struct {
	// By resource, set before the first request comes.
	stores map[string]*registry.Store
	audit  audit
}

func (a *access) Authorize(ctx context.Context, asked authorizer.Attributes) (authorizer.Decision, string, error) {
	if slices.Contains(asked.GetUser().GetGroups(), user.SystemPrivilegedGroup) {
		return authorizer.DecisionAllow, "", nil
	}
	isAllowed, err := a.allows(asked)
	if err != nil {
		return authorizer.DecisionNoOpinion, "", err
	}
	a.audit.note(asked, isAllowed)
	if isAllowed {
		return authorizer.DecisionAllow, "", nil
	}
	return authorizer.DecisionNoOpinion, "no role allows it", nil
}

func (a *access) allows(asked authorizer.Attributes) (bool, error) {
	who := asked.GetUser()
	clusterRoles, err := list[*rbac.ClusterRoleList](a, "clusterroles", "")
	if err != nil {
		return false, err
	}
	clusterBindings, err := list[*rbac.ClusterRoleBindingList](a, "clusterrolebindings", "")
	if err != nil {
		return false, err
	}
	rulesOf := func(name string) []rbac.PolicyRule {
		for _, role := range clusterRoles.Items {
			if role.Name == name {
				return role.Rules
			}
		}
		return nil
	}
	for _, binding := range clusterBindings.Items {
		if include(binding.Subjects, who) && anyCovers(rulesOf(binding.RoleRef.Name), asked) {
			return true, nil
		}
	}
	namespace := asked.GetNamespace()
	if namespace == "" {
		return false, nil
	}
	roles, err := list[*rbac.RoleList](a, "roles", namespace)
	if err != nil {
		return false, err
	}
	bindings, err := list[*rbac.RoleBindingList](a, "rolebindings", namespace)
	if err != nil {
		return false, err
	}
	for _, binding := range bindings.Items {
		if !include(binding.Subjects, who) {
			continue
		}
		if binding.RoleRef.Kind == "ClusterRole" && anyCovers(rulesOf(binding.RoleRef.Name), asked) {
			return true, nil
		}
		for _, role := range roles.Items {
			if binding.RoleRef.Kind == "Role" && role.Name == binding.RoleRef.Name && anyCovers(role.Rules, asked) {
				return true, nil
			}
		}
	}
	return false, nil
}

func list[T runtime.Object](a *access, resource, namespace string) (T, error) {
	ctx := request.WithNamespace(request.NewContext(), namespace)
	found, err := a.stores[resource].List(ctx, &internalversion.ListOptions{ResourceVersion: "0"})
	if err != nil {
		var none T
		return none, err
	}
	return found.(T), nil
}

// include says whether one of the subjects is the user.
func include(subjects []rbac.Subject, who user.Info) bool {
	return slices.ContainsFunc(subjects, func(subject rbac.Subject) bool {
		switch subject.Kind {
		case rbac.ServiceAccountKind:
			return who.GetName() == serviceAccounts+subject.Namespace+":"+subject.Name
		case rbac.UserKind:
			return who.GetName() == subject.Name
		default:
			return slices.Contains(who.GetGroups(), subject.Name)
		}
	})
}

func anyCovers(rules []rbac.PolicyRule, asked authorizer.Attributes) bool {
	return slices.ContainsFunc(rules, func(rule rbac.PolicyRule) bool { return covers(rule, asked) })
}

func covers(rule rbac.PolicyRule, asked authorizer.Attributes) bool {
	if !has(rule.Verbs, asked.GetVerb()) {
		return false
	}
	if !asked.IsResourceRequest() {
		return has(rule.NonResourceURLs, asked.GetPath())
	}
	isNamed := len(rule.ResourceNames) == 0 || slices.Contains(rule.ResourceNames, asked.GetName())
	return isNamed && has(rule.APIGroups, asked.GetAPIGroup()) && has(rule.Resources, resourceOf(asked))
}

func has(words []string, word string) bool {
	return slices.Contains(words, "*") || slices.Contains(words, word)
}

func resourceOf(asked authorizer.Attributes) string {
	if sub := asked.GetSubresource(); sub != "" {
		return asked.GetResource() + "/" + sub
	}
	return asked.GetResource()
}

// audit writes each sort of request down once, as a line of JSON.
type audit struct {
	file *os.File
	lock sync.Mutex
	seen map[entry]bool
}

type entry struct {
	User      string `json:"user"`
	Verb      string `json:"verb"`
	Group     string `json:"group"`
	Resource  string `json:"resource"`
	Namespace string `json:"namespace"`
	Allowed   bool   `json:"allowed"`
}

func newAudit(path string) audit {
	if path == "" {
		return audit{}
	}
	file, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	utilruntime.Must(err)
	return audit{file: file, seen: map[entry]bool{}}
}

func (a *audit) note(asked authorizer.Attributes, isAllowed bool) {
	if a.file == nil || !asked.IsResourceRequest() {
		return
	}
	e := entry{asked.GetUser().GetName(), asked.GetVerb(), asked.GetAPIGroup(), resourceOf(asked), asked.GetNamespace(), isAllowed}
	a.lock.Lock()
	defer a.lock.Unlock()
	if a.seen[e] {
		return
	}
	a.seen[e] = true
	line, err := json.Marshal(e)
	utilruntime.Must(err)
	_, err = a.file.Write(append(line, '\n'))
	utilruntime.Must(err)
}

# The native side: the same rows, without a guest.

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from .models import Score


@require_safe
def home(request: HttpRequest) -> HttpResponse:
    return render(request, "scores/home.html", {"scores": Score.objects.all()[:10]})
